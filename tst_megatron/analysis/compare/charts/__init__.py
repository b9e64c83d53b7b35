"""The charts of a comparison: what is in them, and how they are drawn on a page and on paper."""
