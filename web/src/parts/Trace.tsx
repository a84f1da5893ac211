import { useQuery } from "@tanstack/react-query";
import type { GetOrderTraceResponseJson, SpanJson } from "../gen/tidebook/gateway/v1/gateway_pb";
import { get } from "../lib/api";
import { screenCount } from "../lib/screen";
import { Dialog, Placeholder } from "./Basics";

/** Where an order spent its time, from the first request to the ledger. */
export function Trace({ orderId, onClose }: { orderId: string; onClose: () => void }) {
  const { data, error, isPending } = useQuery({
    queryKey: ["mine", "trace", orderId],
    queryFn: () => get<GetOrderTraceResponseJson>(`/v1/traces/${orderId}`),
    refetchInterval: 3_000,
  });
  const spans = data?.spans ?? [];
  return (
    <Dialog title={`Trace of order ${orderId}`} onClose={onClose} wide>
      {spans.length === 0 && (
        <Placeholder loading={isPending} error={error} empty="The spans of this order are still on their way, or too old." />
      )}
      {spans.length > 0 && <Waterfall spans={spans} />}
      {data?.traceId && <p className="hint">trace {data.traceId}</p>}
    </Dialog>
  );
}

function Waterfall({ spans }: { spans: readonly SpanJson[] }) {
  const starts = spans.map(({ startNs = "0" }) => BigInt(startNs));
  const ends = spans.map(({ startNs = "0", durationNs = "0" }) => BigInt(startNs) + BigInt(durationNs));
  const from = starts.reduce((a, b) => (a < b ? a : b));
  const to = ends.reduce((a, b) => (a > b ? a : b));
  const whole = to > from ? to - from : 1n;
  const part = (ns: bigint) => screenCount((ns * 10_000n) / whole) / 100;
  return (
    <ol className="waterfall">
      {spans.map((span, at) => {
        const start = starts[at] ?? from;
        const duration = BigInt(span.durationNs ?? "0");
        return (
          <li key={span.spanId} title={attributes(span)}>
            <span className="what">
              <small>{span.service}</small> {(span.name ?? "").replace(`${span.service} `, "")}
            </span>
            <span className="lane" aria-hidden="true">
              <span style={{ marginLeft: `${part(start - from)}%`, width: `max(2px, ${part(duration)}%)` }} />
            </span>
            <span className="number">{inMilliseconds(duration)}</span>
          </li>
        );
      })}
    </ol>
  );
}

/** 1234567 ns -> "1.234 ms". */
function inMilliseconds(ns: bigint): string {
  const micros = ns / 1_000n;
  return `${(micros / 1_000n).toLocaleString("en")}.${(micros % 1_000n).toString().padStart(3, "0")} ms`;
}

function attributes(span: SpanJson): string {
  return Object.entries(span.attributes ?? {})
    .map(([name, value]) => `${name}: ${value}`)
    .join("\n");
}
