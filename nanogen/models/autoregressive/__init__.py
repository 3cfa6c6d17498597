"""One number after the other: p(x) = Π p(x_i | x_<i)."""
