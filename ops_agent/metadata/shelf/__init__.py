"""Archives at rest: their files, their documents, and what is read from them."""
