"""From texts to labels, from data to scores, and to a page that shows them."""
