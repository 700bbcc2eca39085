"""The thread that draws into visdom, and the mailbox through which a run hands it drawings.

The training thread only leaves its drawings in the mailbox, which is bounded; the daemon thread takes them to the
server. So a server that is absent, slow, hung or killed costs the run nothing but one warning.
"""

import os
import threading
import time

from utils.visdom_link import ServerLostError, VisdomLink

MIN_REST, MAX_REST = 0.5, 10.0  # s between two rounds of drawing
MAX_WAITING = 100  # pictures and passed-on calls in the mailbox; above, the oldest is dropped


class Painter(threading.Thread):
    """The thread that draws, and its mailbox: `drawings[key] = function(vis)`, where newer replaces older."""

    def __init__(self, tell, greet, env, **settings):
        super().__init__(name="visdom-painter", daemon=True)
        self.tell, self.greet, self.pid = tell, greet, os.getpid()
        self.link = VisdomLink(env, **settings)
        self.lock = threading.Lock()  # guards the mailbox and the lines; nobody waits for anything under it
        self.drawings = {}
        self.drawing, self.connected = False, threading.Event()
        self.filled, self.closing, self.hurry = threading.Event(), threading.Event(), threading.Event()
        self.loss = ""  # why the server is lost, and what to do
        self.off = False

    def put(self, key, drawing):
        """Leaves a drawing in the mailbox; the caller holds the lock."""
        self.drawings[key] = drawing
        others = [k for k in self.drawings if k[0] != "line"]  # a line is bounded by itself
        for oldest in others[:-MAX_WAITING]:
            del self.drawings[oldest]
        self.filled.set()

    def run(self):
        try:
            vis = self.link.connect()
            self.connected.set()
            self.greet(self.link.page)
            while not self.off:
                self.filled.wait()
                self.filled.clear()
                start = time.monotonic()
                for _ in range(len(self.drawings)):
                    self.draw_one(vis)
                if self.closing.is_set() and not self.drawings:
                    return
                # busy a tenth of the time at most, and so the server, whose work grows with the lines
                self.hurry.wait(min(max(MIN_REST, 10 * (time.monotonic() - start)), MAX_REST))
        except ServerLostError as e:
            self.give_up(str(e), e.remedy)
        except Exception as e:  # visdom is not installed, or does not know an argument
            self.give_up(f"{type(e).__name__}: {e}")

    def draw_one(self, vis):
        """Draws what has waited longest."""
        with self.lock:
            if not self.drawings:
                return
            drawing = self.drawings.pop(next(iter(self.drawings)))
            self.drawing = True
        try:
            drawing(vis)
        except ServerLostError:
            raise
        except Exception as e:  # a mistake in one drawing: the others go on
            self.tell("drawing", f"visdom: a drawing was left out ({type(e).__name__}: {e})")
        finally:
            self.drawing = False

    def give_up(self, reason, remedy=""):
        """Ends the view for good and says so."""
        remedy = remedy or self.link.how_to_start()
        with self.lock:
            was_off, self.off = self.off, True
            self.loss = self.loss or f"no visdom page at {self.link.url} ({reason}). For one: {remedy}"
            self.drawings.clear()
        if not was_off:
            self.tell(
                "server",
                f"visdom: no live view at {self.link.url} ({reason}); training goes on and its record is complete. "
                f"For a view: {remedy}",
            )

    def wait(self):
        """Waits until all is drawn, without rests in between. Returns False where the server is lost."""
        self.hurry.set()
        while self.is_alive() and not self.off and not (self.connected.is_set() and self.idle()):
            time.sleep(0.01)
        self.hurry.clear()
        return not self.off

    def idle(self):
        with self.lock:
            return not self.drawings and not self.drawing

    def finish(self, timeout):
        """Draws what waits while answers come within `timeout`, 5 times that in all; returns if done."""
        self.closing.set()
        self.hurry.set()
        self.filled.set()
        end = time.monotonic() + 5 * timeout
        while self.is_alive() and time.monotonic() < end:
            asked_at = self.link.asked_at
            if max(self.link.answer_took, time.monotonic() - asked_at if asked_at else 0) > timeout:
                break
            self.join(0.01)
        done = not self.is_alive() and not self.off
        if not done and not self.link.answered:
            self.give_up("no answer")
        with self.lock:
            self.off = True
            self.drawings.clear()
        return done
