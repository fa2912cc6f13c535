"""Painting: pictures by brush strokes, coarse to fine, laid by a recurrent network that looks at the picture and its canvas."""
