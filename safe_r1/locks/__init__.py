"""One job at a time on one folder."""
