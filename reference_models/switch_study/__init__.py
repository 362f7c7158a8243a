"""The study: does guided backprop work without switches?"""
