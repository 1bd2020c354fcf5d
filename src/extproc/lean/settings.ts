import { ConnectionError, defaultFrameBytesMax, defaultHeaderTableBytes, ErrorCode, int31Max, settableFrameBytesMax, Setting } from './protocol.ts';
import type { Sender } from './sender.ts';

/** Frames are not made larger than this, whatever a client takes: others shall have their turn. */
const sentFrameBytesMax = 65_536;

/**
 * Applies a client's SETTINGS to what is sent to it (RFC 9113, section 6.5). Those that concern streams of ours or the size of
 * field lists change nothing: there are no such streams, and trailers are small.
 */
export function applySettings(sender: Sender, bytes: Buffer, start: number, end: number): void {
  if ((end - start) % 6 !== 0) throw new ConnectionError(ErrorCode.FRAME_SIZE_ERROR, 'SETTINGS of a wrong size');
  for (let at = start; at < end; at += 6) {
    const value = bytes.readUInt32BE(at + 2);
    switch (bytes.readUInt16BE(at)) {
      case Setting.HEADER_TABLE_SIZE:
        if (value < defaultHeaderTableBytes) sender.writer.sayTableIsUnused();
        break;
      case Setting.ENABLE_PUSH:
        if (value > 1) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, 'ENABLE_PUSH that is neither 0 nor 1');
        break;
      case Setting.INITIAL_WINDOW_SIZE:
        if (value > int31Max) throw new ConnectionError(ErrorCode.FLOW_CONTROL_ERROR, 'window too large');
        sender.initialWindowBytes = value;
        break;
      case Setting.MAX_FRAME_SIZE:
        if (value < defaultFrameBytesMax || value > settableFrameBytesMax) throw new ConnectionError(ErrorCode.PROTOCOL_ERROR, 'MAX_FRAME_SIZE out of range');
        sender.frameBytesMax = Math.min(value, sentFrameBytesMax);
        break;
      default:
    }
  }
}
