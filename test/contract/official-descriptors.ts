// Envoy's own descriptors, from the two places that carry them, and the comparison of descriptors by name.
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { loadSync, type MessageTypeDefinition } from '@grpc/proto-loader';

/** The parts of google/protobuf/descriptor.proto that are compared, in the camelCase in which protobufjs brings that file. */
export interface FileDescriptor {
  name: string;
  package: string;
  dependency?: string[];
  messageType?: MessageDescriptor[];
  enumType?: EnumDescriptor[];
  service?: { name: string; method?: MethodDescriptor[] }[];
}

export interface MessageDescriptor {
  name: string;
  field?: FieldDescriptor[];
  nestedType?: MessageDescriptor[];
  enumType?: EnumDescriptor[];
  oneofDecl?: { name: string }[];
  options?: { mapEntry?: boolean };
}

export interface FieldDescriptor {
  name: string;
  number: number;
  label: number;
  type: number;
  typeName?: string;
  oneofIndex?: number;
  proto3Optional?: boolean;
}

export interface EnumDescriptor {
  name: string;
  value?: { name: string; number?: number }[];
}

interface MethodDescriptor {
  name: string;
  inputType: string;
  outputType: string;
  clientStreaming?: boolean;
  serverStreaming?: boolean;
}

const descriptorProto = loadSync('google/protobuf/descriptor.proto', { keepCase: true, longs: Number, defaults: false });
const codec = descriptorProto['google.protobuf.FileDescriptorProto'] as MessageTypeDefinition<FileDescriptor, FileDescriptor>;

/** Decodes a serialized FileDescriptorProto. */
export function decodeFileDescriptor(bytes: Buffer): FileDescriptor {
  return codec.deserialize(bytes);
}

/** FieldDescriptorProto.Type. */
export const fieldTypes: Readonly<Record<number, string>> = {
  1: 'double',
  2: 'float',
  3: 'int64',
  4: 'uint64',
  5: 'int32',
  6: 'fixed64',
  7: 'fixed32',
  8: 'bool',
  9: 'string',
  11: 'message',
  12: 'bytes',
  13: 'uint32',
  14: 'enum',
  15: 'sfixed32',
  16: 'sfixed64',
  17: 'sint32',
  18: 'sint64',
};

/** FieldDescriptorProto.Label: a map is a repeated message. */
export const labelRepeated = 3;

/**
 * What matters on the wire and to generated names, by full name: a line for each message, field, enum, value, service and method.
 * The number of a field or value comes first, after a `#`.
 */
export function factsOf(files: Iterable<FileDescriptor>): Map<string, string> {
  const facts = new Map<string, string>();
  const addEnum = (scope: string, { name, value = [] }: EnumDescriptor): void => {
    facts.set(`${scope}.${name}`, 'enum');
    for (const item of value) facts.set(`${scope}.${name}.${item.name}`, `#${item.number ?? 0}`);
  };
  const addMessage = (scope: string, message: MessageDescriptor): void => {
    const fullName = `${scope}.${message.name}`;
    facts.set(fullName, message.options?.mapEntry === true ? 'map entry' : 'message');
    for (const field of message.field ?? []) {
      const label = field.label === labelRepeated ? 'repeated' : 'single';
      const words = [`#${field.number}`, label, fieldTypes[field.type] ?? `type ${field.type}`];
      if (field.typeName !== undefined) words.push(field.typeName);
      if (field.oneofIndex !== undefined) words.push(`in oneof ${message.oneofDecl?.[field.oneofIndex]?.name ?? '?'}`);
      if (field.proto3Optional === true) words.push('optional');
      facts.set(`${fullName}.${field.name}`, words.join(' '));
    }
    for (const nested of message.nestedType ?? []) addMessage(fullName, nested);
    for (const nested of message.enumType ?? []) addEnum(fullName, nested);
  };
  for (const file of files) {
    const scope = file.package;
    for (const message of file.messageType ?? []) addMessage(scope, message);
    for (const item of file.enumType ?? []) addEnum(scope, item);
    for (const { name, method = [] } of file.service ?? []) {
      facts.set(`${scope}.${name}`, 'service');
      for (const rpc of method) {
        const from = `${rpc.clientStreaming === true ? 'stream ' : ''}${rpc.inputType}`;
        const to = `${rpc.serverStreaming === true ? 'stream ' : ''}${rpc.outputType}`;
        facts.set(`${scope}.${name}.${rpc.name}`, `${from} → ${to}`);
      }
    }
  }
  return facts;
}

/**
 * Where ours contradict the official ones: one line for each name that both have with another meaning, and for each number that ours give
 * to a name the official ones lack while they use it for another. A name that only ours have is no contradiction
 * (see {@link missingFrom}): an older Envoy does not know the newest fields.
 */
export function contradictions(ours: ReadonlyMap<string, string>, official: ReadonlyMap<string, string>): string[] {
  const users = new Map<string, string>();
  for (const [name, fact] of official) if (fact.startsWith('#')) users.set(numberKey(name, fact), name);
  const found: string[] = [];
  for (const [name, fact] of ours) {
    const theirs = official.get(name);
    if (theirs !== undefined) {
      if (theirs !== fact) found.push(`${name}: ours is "${fact}", Envoy's "${theirs}"`);
      continue;
    }
    const user = fact.startsWith('#') ? users.get(numberKey(name, fact)) : undefined;
    if (user !== undefined) found.push(`${name}: ours is "${fact}", a number that Envoy uses for ${user}`);
  }
  return found;
}

/** The names that only ours have. */
export function missingFrom(official: ReadonlyMap<string, string>, ours: ReadonlyMap<string, string>): string[] {
  return [...ours.keys()].filter((name) => !official.has(name));
}

function numberKey(name: string, fact: string): string {
  return `${name.slice(0, name.lastIndexOf('.'))} ${fact.replace(/ .*/, '')}`;
}

/**
 * The official descriptor of one .proto file from the unpacked xds-protos wheel, whose generated Python modules each hold one as a bytes
 * literal. Undefined when the wheel lacks the file.
 */
export function descriptorFromWheel(folder: string, protoFile: string): FileDescriptor | undefined {
  const module = path.join(folder, protoFile.replace(/\.proto$/, '_pb2.py'));
  if (!existsSync(module)) return undefined;
  const text = readFileSync(module, 'latin1');
  const call = /AddSerializedFile\((?=b['"])/.exec(text);
  if (call === null) throw new Error(`${module} holds no serialized descriptor: xds-protos has changed its form`);
  return decodeFileDescriptor(parsePythonBytes(text, call.index + call[0].length));
}

const pythonEscapes: Readonly<Record<string, number>> = { '\\': 92, "'": 39, '"': 34, a: 7, b: 8, f: 12, n: 10, r: 13, t: 9, v: 11 };

/** Reads the Python bytes literal (b'…' or b"…") that starts at `start`; throws if there is none or it does not end. */
export function parsePythonBytes(text: string, start = 0): Buffer {
  const quote = text[start + 1];
  if (text[start] !== 'b' || (quote !== "'" && quote !== '"')) throw new Error(`no Python bytes literal at ${start}`);
  const bytes: number[] = [];
  for (let at = start + 2; at < text.length; ) {
    if (text[at] === quote) return Buffer.from(bytes);
    if (text[at] !== '\\') {
      bytes.push(text.charCodeAt(at));
      at += 1;
      continue;
    }
    const coded = /^(?:x([0-9a-fA-F]{2})|([0-7]{1,3}))/.exec(text.slice(at + 1, at + 4));
    const byte = coded ? Number.parseInt(coded[1] ?? coded[2] ?? '', coded[1] === undefined ? 8 : 16) : pythonEscapes[text[at + 1] ?? ''];
    if (byte === undefined) throw new Error(`unknown escape ${text.slice(at, at + 2)} at ${at}`);
    bytes.push(byte & 0xff);
    at += 1 + (coded?.[0].length ?? 1);
  }
  throw new Error(`the Python bytes literal at ${start} does not end`);
}

/**
 * The official descriptor of one .proto file from Envoy's binary, which embeds the serialized FileDescriptorProto of each file it was
 * generated from. Undefined when the binary holds none.
 */
export function descriptorFromBinary(binary: Buffer, protoFile: string): FileDescriptor | undefined {
  // Field 1 (the file's own name) and the tag of field 2 (its package). Imports of the file by others carry the tag of field 3.
  const name = Buffer.from(protoFile);
  const start = Buffer.concat([Buffer.from([0x0a, name.length]), name, Buffer.from([0x12])]);
  if (name.length > 127) throw new Error(`${protoFile}: a name this long has a length of two bytes`);
  for (let at = binary.indexOf(start); at !== -1; at = binary.indexOf(start, at + 1)) {
    const end = endOfFileDescriptor(binary, at);
    if (end !== undefined) return decodeFileDescriptor(binary.subarray(at, end));
  }
  return undefined;
}

/** FileDescriptorProto.syntax: protobuf writes fields in the order of their numbers, so in a proto3 file this one is the last. */
const syntaxField = 12;

function endOfFileDescriptor(bytes: Buffer, start: number): number | undefined {
  let last = 0;
  for (let at = start; ; ) {
    const field = readField(bytes, at);
    // Each field of the descriptor up to `syntax` is a message or a string, save public_dependency and weak_dependency.
    if (field === undefined || field.number < last || field.number > syntaxField) return undefined;
    if (field.number === syntaxField) return field.value?.toString() === 'proto3' ? field.end : undefined;
    last = field.number;
    at = field.end;
  }
}

/** One field as protobuf writes it; `value` is there for length-delimited ones (wire type 2). */
export interface WireField {
  number: number;
  wireType: number;
  value?: Buffer;
  end: number;
}

/** Reads the field at `at`; undefined when the bytes are no field. Independent of the codec that it helps to check. */
export function readField(bytes: Buffer, at: number): WireField | undefined {
  const tag = readVarint(bytes, at);
  if (tag === undefined) return undefined;
  const number = Math.floor(tag.value / 8);
  const wireType = tag.value % 8;
  if (number === 0) return undefined;
  if (wireType === 0) {
    const varint = readVarint(bytes, tag.end);
    return varint && { number, wireType, end: varint.end };
  }
  if (wireType === 2) {
    const length = readVarint(bytes, tag.end);
    if (length === undefined || length.end + length.value > bytes.length) return undefined;
    const end = length.end + length.value;
    return { number, wireType, value: bytes.subarray(length.end, end), end };
  }
  const width = wireType === 1 ? 8 : wireType === 5 ? 4 : undefined;
  return width === undefined || tag.end + width > bytes.length ? undefined : { number, wireType, end: tag.end + width };
}

/** All fields of a message; throws when the bytes are none. */
export function readFields(bytes: Buffer): WireField[] {
  const fields: WireField[] = [];
  for (let at = 0; at < bytes.length; ) {
    const field = readField(bytes, at);
    if (field === undefined) throw new Error(`no protobuf field at byte ${at}`);
    fields.push(field);
    at = field.end;
  }
  return fields;
}

function readVarint(bytes: Buffer, start: number): { value: number; end: number } | undefined {
  let value = 0;
  for (let at = start; at < Math.min(bytes.length, start + 10); at += 1) {
    const byte = bytes[at] ?? 0;
    value += (byte & 0x7f) * 2 ** (7 * (at - start));
    if (byte < 0x80) return { value, end: at + 1 };
  }
  return undefined;
}
