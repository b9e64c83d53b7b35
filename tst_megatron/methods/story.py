"""How a method is told in a comparison: what a comparison may know of it, without torch."""


class Story:
    """Of a method that has nothing to tell; a method's own overrides what it has."""
