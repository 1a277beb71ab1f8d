"""From records to fitted laws, plans and reports: NumPy and SciPy alone."""
