"""Is this very model handled rightly?"""
