"""What runs tell when they are laid side by side."""
