"""The mathematics that CT and metal artifact reduction share."""
