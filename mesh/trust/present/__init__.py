"""What people see and scan of a certificate: links, QR codes, badge, sheet, snippet. Pure.

Nothing here gives a verdict: an image or a line in a mail can be copied by anyone, so all of it
only says where to check.
"""
