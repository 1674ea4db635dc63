"""Every metric is asserted through the text that a scrape gets."""
