"""One tensor of the result as data, and how it is carried out."""
