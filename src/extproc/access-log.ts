import type { Completion, Ending } from '../router/ports.ts';
import { type AccessLogCommon, AccessLogType, type Address, type HTTPAccessLogEntry, metadataString, type ResponseFlags, toMs } from './messages.ts';

/** What an access-log record says of one of our requests. */
export interface CompletionReport {
  readonly lease: string;
  readonly completion: Completion;
}

/** Longest lease taken from a record, in characters: ours are far shorter. */
const leaseCharsMax = 128;

/**
 * Reads a record of a request that ended, or goes on; undefined where it is another, or names no lease. The lease is in dynamic metadata, which
 * only the processor can write: no client can forge it.
 */
export function readAccessLogEntry(entry: HTTPAccessLogEntry): CompletionReport | undefined {
  const common = entry.common_properties;
  if (common === undefined || !isTelling(common.access_log_type)) return undefined;
  const lease = metadataString(common.metadata, 'fairlead', 'lease');
  if (lease === undefined || lease === '' || lease.length > leaseCharsMax) return undefined;
  if (common.access_log_type === AccessLogType.DownstreamPeriodic) return { lease, completion: { ending: 'open', signal: 'access-log' } };
  const servedBy = toAddress(common.upstream_remote_address);
  return {
    lease,
    completion: {
      ending: toEnding(common.response_flags, servedBy),
      signal: 'access-log',
      status: entry.response?.response_code?.value,
      firstByteMs: common.time_to_first_upstream_rx_byte && toMs(common.time_to_first_upstream_rx_byte),
      answerMs: toAnswerMs(common),
      responseBytes: entry.response?.response_body_bytes,
      attempts: common.upstream_request_attempt_count,
      servedBy,
    },
  };
}

/** Long streams may be logged while they run (access_log_options); Envoys that do not tell the type log only ends. */
function isTelling(type: number | undefined): boolean {
  return type === undefined || type === AccessLogType.NotSet || type === AccessLogType.DownstreamEnd || type === AccessLogType.DownstreamPeriodic;
}

function toEnding(flags: ResponseFlags | undefined, servedBy: string | undefined): Ending {
  if (flags?.downstream_connection_termination === true || flags?.downstream_remote_reset === true || flags?.downstream_protocol_error === true) {
    return 'client-abort';
  }
  const upstreamFailed =
    flags?.upstream_connection_failure === true ||
    flags?.upstream_connection_termination === true ||
    flags?.upstream_remote_reset === true ||
    flags?.upstream_request_timeout === true ||
    flags?.upstream_protocol_error === true ||
    flags?.upstream_retry_limit_exceeded === true ||
    flags?.upstream_max_stream_duration_reached === true ||
    flags?.stream_idle_timeout === true ||
    flags?.duration_timeout === true ||
    flags?.local_reset === true;
  if (upstreamFailed) return 'upstream-failure';
  return servedBy === undefined ? 'not-proxied' : 'finished';
}

/** Both are counted from the same start. */
function toAnswerMs({ time_to_first_upstream_tx_byte: sent, time_to_last_upstream_rx_byte: received }: AccessLogCommon): number | undefined {
  return sent === undefined || received === undefined ? undefined : Math.max(0, toMs(received) - toMs(sent));
}

/** `ip:port`, IPv6 in brackets, as endpoints are named in configuration. */
function toAddress(address: Address | undefined): string | undefined {
  const socket = address?.socket_address;
  if (socket?.address === undefined || socket.port_value === undefined) return undefined;
  return socket.address.includes(':') ? `[${socket.address}]:${socket.port_value}` : `${socket.address}:${socket.port_value}`;
}
