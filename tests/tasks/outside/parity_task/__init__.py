"""Learn to say, after each bit of a sequence, whether the ones so far are odd in number.

Many-to-many, aligned: the smallest thing that a network without a state cannot do.
"""
