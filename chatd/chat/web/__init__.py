"""The HTTP door: each function takes a request apart, runs a rule, and puts what it returned into JSON."""
