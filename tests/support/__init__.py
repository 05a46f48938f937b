"""What the tests of several rooms need: models, references, calls, results to draw."""
