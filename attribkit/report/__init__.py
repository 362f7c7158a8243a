"""Results as a reader sees them: a panel to look at, a page to explore."""
