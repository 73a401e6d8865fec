"""Rates corrected by people's labels of the run itself: which texts are labelled, and what the labels say."""
