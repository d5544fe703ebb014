"""From a URL to a function, and from what it returns to an answer."""
