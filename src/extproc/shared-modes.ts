import type { ProcessingMode } from './messages.ts';

/** By their members' numbers, which are few and small, as one number. */
const modes = new Map<number, ProcessingMode>();

/** More than any of the protocol's modes has; what Envoy says of its own ones may be anything. */
const numbers = 8;

/** A mode as one object for all that are equal, so that an answer that was sent before is known by it. */
export function sharedMode(mode: Required<ProcessingMode>): ProcessingMode {
  const headers = (mode.request_header_mode * numbers + mode.response_header_mode) * numbers + mode.request_trailer_mode;
  const { request_body_mode: requestBody, response_body_mode: responseBody } = mode;
  if (!(requestBody >= 0 && requestBody < numbers && responseBody >= 0 && responseBody < numbers)) return mode;
  const key = ((headers * numbers + mode.response_trailer_mode) * numbers + requestBody) * numbers + responseBody;
  let known = modes.get(key);
  if (known === undefined) modes.set(key, (known = mode));
  return known;
}
