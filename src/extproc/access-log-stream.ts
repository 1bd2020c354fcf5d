import type { Router } from '../router/router.ts';
import type { StreamEvents } from '../router/stream-events.ts';
import { readAccessLogEntry } from './access-log.ts';
import type { CallListener } from './grpc-transport.ts';
import type { StreamAccessLogsMessage } from './messages.ts';

/** One stream of access-log records. Envoy keeps it open for good, so the server ends it when it stops. */
export class AccessLogStream implements CallListener<StreamAccessLogsMessage> {
  readonly #router: Router;
  readonly #events: StreamEvents;
  readonly #whenOver: (stream: AccessLogStream) => void;
  readonly #endCall: () => void;

  constructor(router: Router, events: StreamEvents, endCall: () => void, whenOver: (stream: AccessLogStream) => void) {
    this.#router = router;
    this.#events = events;
    this.#endCall = endCall;
    this.#whenOver = whenOver;
  }

  onMessage(message: StreamAccessLogsMessage): void {
    const entries = message.http_logs?.log_entry ?? [];
    let withoutLease = 0;
    for (const entry of entries) {
      // Each on its own: one record must not keep the leases of the others.
      try {
        const report = readAccessLogEntry(entry);
        if (report === undefined) withoutLease += 1;
        else this.#router.observe(report.lease, report.completion);
      } catch (error) {
        this.#events.failed(error);
      }
    }
    this.#events.accessLogRecords(entries.length, withoutLease);
  }

  onEnd(): void {
    this.end();
  }

  onCancelled(): void {
    this.#whenOver(this);
  }

  /** Ends the call with OK. */
  end(): void {
    this.#whenOver(this);
    this.#endCall();
  }
}
