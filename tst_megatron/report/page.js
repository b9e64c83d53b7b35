// Unpacks plotly.js from the page and puts a zoomable chart in the place of every picture.
// Where that cannot be done, the pictures stay.
(async () => {
  const text = (id) => document.getElementById(id).textContent.trim();
  const packed = Uint8Array.from(atob(text("plotly-js")), (letter) => letter.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);
  const settings = {
    responsive: true,
    displaylogo: false,
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
  };
  for (const [name, chart] of Object.entries(JSON.parse(text("charts")))) {
    const figure = document.getElementById(name);
    const place = figure.querySelector(".zoomable");
    figure.classList.add("is-zoomable");
    await Plotly.newPlot(place, chart.data, chart.layout, settings);
  }
  document.body.dataset.charts = "drawn";
})();
