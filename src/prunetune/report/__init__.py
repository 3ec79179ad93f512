"""Turn finished runs into tables, figures and one HTML page. Only this package converts fractions to percentages."""
