"""Answers given again: exactly the same request, or one that means the same.

Off unless a route is opted in (``llm.cache``). What belongs to one workspace, policy and model is
never given to another; only whole, successful answers are kept; and a workspace whose memory
changed starts anew.
"""
