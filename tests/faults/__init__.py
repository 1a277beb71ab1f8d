"""Faults for tests, injected for real; usable from any test or script.

storage  damage to files, and disks that are full
worker   `varjax` with a fault at a chosen update, as a process
group    several processes that work as one, started and watched
"""
