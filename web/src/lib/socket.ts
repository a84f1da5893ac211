import type {
  ClientFrameJson,
  ServerFrameJson,
  SubscriptionJson,
} from "../gen/tidebook/gateway/v1/gateway_pb";

export type Connection = "connecting" | "open" | "lost";
type Listener = (frame: ServerFrameJson) => void;

interface Topic {
  subscription: SubscriptionJson;
  listener: Listener;
}

const PING_EVERY_MS = 15_000;
const LONGEST_WAIT_MS = 10_000;

/**
 * The page's one WebSocket: connects again by itself and subscribes anew, so that every topic starts
 * over with a snapshot.
 */
export class Socket {
  private socket: WebSocket | null = null;
  private readonly topics = new Set<Topic>();
  private readonly watchers = new Set<(state: Connection) => void>();
  private nextId = 1;
  private failures = 0;
  private heard = true;
  private state: Connection = "connecting";

  constructor(private readonly url: string) {
    this.connect();
    setInterval(() => this.ping(), PING_EVERY_MS);
  }

  /** Receive what `subscription` brings until the returned function is called. */
  subscribe(subscription: SubscriptionJson, listener: Listener): () => void {
    const topic = { subscription, listener };
    this.topics.add(topic);
    this.send({ subscribe: subscription });
    return () => {
      this.topics.delete(topic);
      this.send({ unsubscribe: subscription });
    };
  }

  /** Ask for a topic's snapshot again, after a gap. */
  resubscribe(subscription: SubscriptionJson): void {
    this.send({ unsubscribe: subscription });
    this.send({ subscribe: subscription });
  }

  /** Told of the connection's state now and whenever it changes. */
  watch(watcher: (state: Connection) => void): () => void {
    this.watchers.add(watcher);
    watcher(this.state);
    return () => this.watchers.delete(watcher);
  }

  /** Connect anew: after signing in or out the cookies say who it is. */
  restart(): void {
    this.failures = 0;
    this.socket?.close();
  }

  private connect(): void {
    const socket = new WebSocket(this.url);
    this.socket = socket;
    socket.onopen = () => {
      this.failures = 0;
      this.heard = true;
      this.enter("open");
      for (const topic of this.topics) this.send({ subscribe: topic.subscription });
    };
    socket.onmessage = (event: MessageEvent<string>) => {
      this.heard = true;
      const frame = JSON.parse(event.data) as ServerFrameJson;
      for (const topic of this.topics) topic.listener(frame);
    };
    socket.onclose = () => {
      this.enter("lost");
      const wait = Math.min(LONGEST_WAIT_MS, 250 * 2 ** this.failures++);
      setTimeout(() => this.connect(), wait / 2 + Math.random() * (wait / 2));
    };
  }

  /** A connection that says nothing between two pings is dead, whatever the browser thinks. */
  private ping(): void {
    if (!this.heard) this.socket?.close();
    this.heard = false;
    this.send({ ping: {} });
  }

  private send(frame: ClientFrameJson): void {
    if (this.socket?.readyState !== WebSocket.OPEN) return;
    this.socket.send(JSON.stringify({ ...frame, id: String(this.nextId++) }));
  }

  private enter(state: Connection): void {
    this.state = state;
    for (const watcher of this.watchers) watcher(state);
  }
}
