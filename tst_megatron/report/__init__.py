"""Tables, charts and pages; knows no runs."""
