"""A method of somebody else's: the learning rate of the first steps times a number."""
