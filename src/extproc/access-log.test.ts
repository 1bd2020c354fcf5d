import { describe, expect, it } from 'vitest';
import { readAccessLogEntry } from './access-log.ts';
import { AccessLogType, type AccessLogCommon, type HTTPAccessLogEntry, type ResponseFlags, toDuration, toStruct } from './messages.ts';
import { decodeStreamAccessLogsMessage, encodeStreamAccessLogsMessage } from './proto.ts';

const lease = { filter_metadata: { fairlead: toStruct({ lease: 'r1.7', pool: 'chat' }) } };
const upstream = { socket_address: { address: '10.0.0.1', port_value: 8000 } };

/** The record as it arrives. */
function read(common: AccessLogCommon | undefined, status?: number, bytes?: number): ReturnType<typeof readAccessLogEntry> {
  const entry: HTTPAccessLogEntry = {
    ...(common && { common_properties: common }),
    ...(status !== undefined && { response: { response_code: { value: status }, ...(bytes !== undefined && { response_body_bytes: bytes }) } }),
  };
  const decoded = decodeStreamAccessLogsMessage(encodeStreamAccessLogsMessage({ http_logs: { log_entry: [entry] } }));
  return readAccessLogEntry(decoded.http_logs?.log_entry?.[0] ?? {});
}

describe('readAccessLogEntry', () => {
  it('tells how a request ended, where, and when its first byte came', () => {
    const common = { metadata: lease, upstream_remote_address: upstream, time_to_first_upstream_rx_byte: toDuration(12.5) };
    expect(read(common, 200)).toEqual({
      lease: 'r1.7',
      completion: { ending: 'finished', signal: 'access-log', status: 200, firstByteMs: 12.5, servedBy: '10.0.0.1:8000' },
    });
  });

  it('tells how long the answer took, its size, and how often it was tried', () => {
    const times = { time_to_first_upstream_tx_byte: toDuration(10), time_to_last_upstream_rx_byte: toDuration(2_510), duration: toDuration(2_600) };
    const common = { metadata: lease, upstream_remote_address: upstream, upstream_request_attempt_count: 2, ...times };
    expect(read(common, 200, 51_200)?.completion).toMatchObject({ answerMs: 2_500, responseBytes: 51_200, attempts: 2 });
    const { time_to_first_upstream_tx_byte: sent, ...withoutStart } = common;
    expect(sent).toBeDefined();
    expect(read(withoutStart, 200)?.completion.answerMs).toBeUndefined();
  });

  it('leaves out what never happened', () => {
    expect(read({ metadata: lease })).toEqual({
      lease: 'r1.7',
      completion: { ending: 'not-proxied', signal: 'access-log', status: undefined, firstByteMs: undefined, servedBy: undefined },
    });
  });

  it.each([
    ['IPv6', { socket_address: { address: 'fd00::1', port_value: 80 } }, '[fd00::1]:80'],
    ['a Unix socket', { pipe: { path: '/run/s' } }, undefined],
    ['no port', { socket_address: { address: '10.0.0.1' } }, undefined],
  ])('names the endpoint as configuration does: %s', (_, address, expected) => {
    expect(read({ metadata: lease, upstream_remote_address: address })?.completion.servedBy).toBe(expected);
  });

  const endings: [ResponseFlags, string][] = [
    [{}, 'finished'],
    [{ rate_limited: true }, 'finished'],
    [{ downstream_connection_termination: true }, 'client-abort'],
    [{ downstream_remote_reset: true }, 'client-abort'],
    [{ downstream_protocol_error: true }, 'client-abort'],
    [{ upstream_connection_failure: true }, 'upstream-failure'],
    [{ upstream_connection_termination: true }, 'upstream-failure'],
    [{ upstream_remote_reset: true }, 'upstream-failure'],
    [{ upstream_request_timeout: true }, 'upstream-failure'],
    [{ upstream_protocol_error: true }, 'upstream-failure'],
    [{ upstream_retry_limit_exceeded: true }, 'upstream-failure'],
    [{ upstream_max_stream_duration_reached: true }, 'upstream-failure'],
    [{ duration_timeout: true }, 'upstream-failure'],
    [{ stream_idle_timeout: true }, 'upstream-failure'],
    [{ local_reset: true }, 'upstream-failure'],
    // The client left while the upstream was failing: what the client did came last.
    [{ downstream_connection_termination: true, upstream_remote_reset: true }, 'client-abort'],
  ];
  it.each(endings)('reads the flags %o as %s', (flags, ending) => {
    expect(read({ metadata: lease, upstream_remote_address: upstream, response_flags: flags })?.completion.ending).toBe(ending);
  });

  it.each<[ResponseFlags, string]>([
    [{ no_healthy_upstream: true }, 'not-proxied'],
    [{ no_cluster_found: true }, 'not-proxied'],
    [{ upstream_connection_failure: true }, 'upstream-failure'],
  ])('without an upstream, %o is %s', (flags, ending) => {
    expect(read({ metadata: lease, response_flags: flags })?.completion.ending).toBe(ending);
  });

  it.each([
    [AccessLogType.NotSet, true],
    [AccessLogType.DownstreamEnd, true],
    [AccessLogType.DownstreamStart, false],
    [AccessLogType.UpstreamPoolReady, false],
    [AccessLogType.UpstreamEnd, false],
    [99, false],
  ])('takes type %d for an end: %s', (type, isEnd) => {
    expect(read({ metadata: lease, access_log_type: type }) !== undefined).toBe(isEnd);
  });

  it('takes a record of what goes on for a sign of life, and for nothing more', () => {
    const periodic = { metadata: lease, access_log_type: AccessLogType.DownstreamPeriodic };
    expect(read({ ...periodic, upstream_remote_address: upstream }, 200, 5)).toEqual({ lease: 'r1.7', completion: { ending: 'open', signal: 'access-log' } });
    expect(read({ access_log_type: AccessLogType.DownstreamPeriodic })).toBeUndefined();
  });

  it.each([
    ['nothing at all', undefined],
    ['no metadata', {}],
    ["another filter's", { metadata: { filter_metadata: { 'envoy.lb': toStruct({ lease: 'r1.7' }) } } }],
    ['an empty lease', { metadata: { filter_metadata: { fairlead: toStruct({ lease: '' }) } } }],
    ['a lease that is no text', { metadata: { filter_metadata: { fairlead: toStruct({ lease: 7 }) } } }],
    ['a lease longer than any of ours', { metadata: { filter_metadata: { fairlead: toStruct({ lease: 'x'.repeat(129) }) } } }],
  ])('finds no lease in %s', (_, common) => {
    expect(read(common)).toBeUndefined();
  });
});
