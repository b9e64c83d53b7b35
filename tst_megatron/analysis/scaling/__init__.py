"""Laws of loss over size and length: arrays in, frozen values out."""
