"""Model growth: a small model's checkpoint becomes a deeper one's, and training goes on."""
