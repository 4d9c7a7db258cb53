"""Health, metrics and the JSON API, on aiohttp.web. Law: reads the store, and writes only what a submitter or an operator may
write (a new row, a request to stop). It never calls EC2 or CloudWatch, and the bucket only to show artifacts.
"""
