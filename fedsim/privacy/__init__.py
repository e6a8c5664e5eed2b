"""Privacy: what is sampled, clipped and noised, and what that costs."""
