"""What `softeq list` prints above the phenomena."""

GROUP = "Phenomena of soft inductive biases (docs/phenomena.md)"
