"""What tests chatd: one file for each module, and the end-to-end suites."""
