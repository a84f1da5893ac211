"""What tests in every area use: waiting, free ports, real servers, a whole running system."""

from tests.support.exchange import Exchange, running_exchange
from tests.support.ports import free_port, free_ports
from tests.support.waiting import eventually

__all__ = ["Exchange", "eventually", "free_port", "free_ports", "running_exchange"]
