import type { ListValue, Metadata, Struct, Value } from '../messages.ts';
import { HeaderNames } from './header-names.ts';
import { depthMax, WireError, type WireReader } from './reader.ts';

// google/protobuf/struct.proto and envoy/config/core/v3/base.proto (Metadata). A case in a switch is `field << 3 | wire type`; a field that is
// known but written in another way is skipped like an unknown one, as protobuf wants it.

/** Decodes a `google.protobuf.Struct` up to `end`. `wanted`: the fields to read; absent: all. */
export function readStruct(reader: WireReader, end: number, depth = 0, wanted?: ReadonlySet<string>): Struct {
  const struct: Struct = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) readEntry(reader, reader.enter(), (struct.fields ??= newMap<Value>()), readValue, depth + 1, wanted);
    else reader.skip(tag);
  }
  reader.leave(end);
  return struct;
}

/** Decodes a `google.protobuf.Value`. The member with the highest number counts where a broken peer sends several. */
function readValue(reader: WireReader, end: number, depth: number): Value {
  if (depth > depthMax) throw new WireError('nested too deeply');
  const value: Value = {};
  while (reader.at < end) {
    const tag = reader.tag();
    switch (tag) {
      case 8:
        value.nullValue = reader.int32();
        break;
      case 17:
        value.numberValue = reader.double();
        break;
      case 26:
        value.stringValue = reader.string();
        break;
      case 32:
        value.boolValue = reader.bool();
        break;
      case 42:
        value.structValue = readStruct(reader, reader.enter(), depth + 1);
        break;
      case 50:
        value.listValue = readList(reader, reader.enter(), depth + 1);
        break;
      default:
        reader.skip(tag);
    }
  }
  reader.leave(end);
  const kind = kinds.findLast((member) => value[member] !== undefined);
  if (kind !== undefined) value.kind = kind;
  return value;
}

const kinds = ['nullValue', 'numberValue', 'stringValue', 'boolValue', 'structValue', 'listValue'] as const;

function readList(reader: WireReader, end: number, depth: number): ListValue {
  const list: ListValue = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) (list.values ??= []).push(readValue(reader, reader.enter(), depth + 1));
    else reader.skip(tag);
  }
  reader.leave(end);
  return list;
}

/** Decodes a `envoy.config.core.v3.Metadata`. `wanted`: the namespaces to read; absent: all. `read`: reads one. */
export function readMetadata(
  reader: WireReader,
  end: number,
  wanted?: ReadonlySet<string>,
  read: (reader: WireReader, end: number, depth: number) => Struct = readStruct,
): Metadata {
  const metadata: Metadata = {};
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) readEntry(reader, reader.enter(), (metadata.filter_metadata ??= newMap<Struct>()), read, 1, wanted);
    else reader.skip(tag);
  }
  reader.leave(end);
  return metadata;
}

/** Namespaces and attributes are the same few in all messages. */
const keys = new HeaderNames();

/**
 * Decodes one entry of a map of strings to messages into `map`. Its key and value may come in any order, or not at all.
 * `wanted`: keys whose values are read; absent: all.
 */
export function readEntry<T>(
  reader: WireReader,
  end: number,
  map: Record<string, T>,
  readMessage: (reader: WireReader, end: number, depth: number) => T,
  depth: number,
  wanted?: ReadonlySet<string>,
): void {
  let key = '';
  let valueAt = -1;
  let valueEnd = -1;
  while (reader.at < end) {
    const tag = reader.tag();
    if (tag === 10) {
      const keyEnd = reader.enter();
      key = keys.read(reader.bytes, reader.at, keyEnd);
      reader.at = keyEnd;
    } else if (tag === 18) {
      valueEnd = reader.enter();
      valueAt = reader.at;
      reader.at = valueEnd;
    } else reader.skip(tag);
  }
  reader.leave(end);
  if (wanted?.has(key) === false) return;
  if (valueAt === -1) {
    map[key] = readMessage(reader, end, depth);
    return;
  }
  reader.at = valueAt;
  map[key] = readMessage(reader, valueEnd, depth);
  reader.leave(valueEnd);
  reader.at = end;
}

/** Without a prototype: keys come from outside, and `__proto__` must be one like any other. */
export function newMap<T>(): Record<string, T> {
  return Object.create(null) as Record<string, T>;
}
