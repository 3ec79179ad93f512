"""From finished runs to tables, figures and one page: the only place where a fraction becomes a percentage."""
