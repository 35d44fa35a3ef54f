"""The page and the cards of the models that come with Bushel."""
