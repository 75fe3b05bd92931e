"""`fedstill dashboard`: all runs of a folder on a web page that asks nothing of anyone else.

It reads run folders and never writes to them. A live run streams: the server follows the
folder's files and its metrics endpoint, and sends what changed as server-sent events.
"""

from fedstill.server.dashboard.app import make_app
from fedstill.server.dashboard.serving import Binding, check_binding, serve_dashboard

__all__ = ["Binding", "check_binding", "make_app", "serve_dashboard"]
