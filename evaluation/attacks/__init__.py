"""Attacks: can forgotten images still be distinguished from unseen ones?"""
