"""HTML pages and charts that reports share."""
