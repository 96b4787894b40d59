"""What writes the pages of the site that are made of code and results."""
