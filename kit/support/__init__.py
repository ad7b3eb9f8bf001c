"""What every room stands on and that knows nothing of them: errors, files, the console, progress, servers.

May import: nothing of the kit.
"""
