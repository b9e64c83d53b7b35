"""What a comparison is handed over as: JSON, a page, pictures, CSV, and text in a terminal."""
