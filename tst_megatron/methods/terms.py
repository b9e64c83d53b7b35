"""What a method adds to a plan: memory, operations and traffic, as the planner asks for them."""


class Terms:
    """Of a method that adds nothing; a method's own overrides what it has."""
