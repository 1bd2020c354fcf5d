import http2 from 'node:http2';
import net from 'node:net';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { HeaderField } from './header-field.ts';
import { HpackDecoder } from './hpack-decoder.ts';
import { ConnectionError, ErrorCode } from './protocol.ts';

type Pairs = [string, string][];

function decode(decoder: HpackDecoder, block: Buffer): Pairs {
  const fields: HeaderField[] = [];
  decoder.decode(block, 0, block.length, { add: (field) => void fields.push(field) });
  return fields.map(({ name, value }) => [name, value]);
}

const hex = (text: string): Buffer => Buffer.from(text.replaceAll(' ', ''), 'hex');

const first: Pairs = [
  [':method', 'GET'],
  [':scheme', 'http'],
  [':path', '/'],
  [':authority', 'www.example.com'],
];
const third: Pairs = [
  [':method', 'GET'],
  [':scheme', 'https'],
  [':path', '/index.html'],
  [':authority', 'www.example.com'],
  ['custom-key', 'custom-value'],
];

describe('header blocks', () => {
  it.each([
    ['C.2.1', '400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572', [['custom-key', 'custom-header']]],
    ['C.2.2', '040c 2f73 616d 706c 652f 7061 7468', [[':path', '/sample/path']]],
    ['C.2.3', '1008 7061 7373 776f 7264 0673 6563 7265 74', [['password', 'secret']]],
    ['C.2.4', '82', [[':method', 'GET']]],
  ])('of RFC 7541, %s', (_, block, fields) => {
    expect(decode(new HpackDecoder(), hex(block))).toEqual(fields);
  });

  it.each([
    ['C.3', ['8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d', '8286 84be 5808 6e6f 2d63 6163 6865', '8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65']],
    ['C.4, by Huffman', ['8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff', '8286 84be 5886 a8eb 1064 9cbf', '8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf']],
  ])('of RFC 7541, %s', (_, blocks) => {
    const decoder = new HpackDecoder();
    expect(blocks.map((block) => decode(decoder, hex(block)))).toEqual([first, [...first, ['cache-control', 'no-cache']], third]);
  });

  it('of RFC 7541, C.5: a table of 256 bytes, from which fields are dropped', () => {
    const decoder = new HpackDecoder();
    const blocks = [
      '3fe1 01 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d',
      '4803 3330 37c1 c0bf',
    ];
    const fields = (status: string): Pairs => [
      [':status', status],
      ['cache-control', 'private'],
      ['date', 'Mon, 21 Oct 2013 20:13:21 GMT'],
      ['location', 'https://www.example.com'],
    ];
    expect(blocks.map((block) => decode(decoder, hex(block)))).toEqual([fields('302'), fields('307')]);
    // The oldest is gone.
    expect(() => decode(decoder, hex('c2'))).toThrow(ConnectionError);
  });

  it.each([
    ['index 0', '80'],
    ['an index of nothing', 'be'],
    ['an index of nothing, for a name', '7f 00 01 61'],
    ['an integer that is cut', 'ff 80'],
    ['an integer of too many bytes', 'ff 80 80 80 80 01'],
    ['an integer with a large value', 'ff ff ff ff ff 0f'],
    ['a string that is cut', '00 05 61'],
    ['a string without a length', '00'],
    ['a name without a value', '00 01 61'],
    ['a string as long as can be', '00 7f ff ff ff 7f'],
    ['a table larger than announced', '3f e2 1f'],
    ['a table of absurd size', '3f ff ff ff 7f'],
    ['a change of the table later on', '82 20'],
    ['three changes of the table', '20 20 20 82'],
    ['a broken Huffman code', '00 84 ff ff ff ff 00'],
  ])('with %s end the connection', (_, block) => {
    const error = ((): unknown => {
      try {
        return decode(new HpackDecoder(), hex(block));
      } catch (thrown) {
        return thrown;
      }
    })();
    expect(error).toBeInstanceOf(ConnectionError);
    expect((error as ConnectionError).code).toBe(ErrorCode.COMPRESSION_ERROR);
  });

  it('whose field is larger than the table empty it', () => {
    const decoder = new HpackDecoder();
    decode(decoder, hex('40 01 61 01 62'));
    expect(decode(decoder, hex('be'))).toEqual([['a', 'b']]);
    const large = Buffer.concat([hex('40 01 61 7f 81 1f'), Buffer.alloc(127 + 1 + 31 * 128, 'x')]);
    expect(decode(decoder, large)[0]?.[1]).toHaveLength(127 + 1 + 31 * 128);
    expect(() => decode(decoder, hex('be'))).toThrow(ConnectionError);
  });

  it('of any bytes throw nothing else', () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 60 }), { maxLength: 8 }), (blocks) => {
        const decoder = new HpackDecoder();
        try {
          for (const block of blocks) decode(decoder, Buffer.from(block));
        } catch (error) {
          expect(error).toBeInstanceOf(ConnectionError);
        }
      }),
      { numRuns: 2_000 },
    );
  });

  it('of another encoder come out as they went in', { timeout: 60_000 }, async () => {
    const blocks: Buffer[] = [];
    const server = net.createServer((socket) => {
      let rest = Buffer.alloc(0);
      let isFirst = true;
      socket.write(Buffer.from([0, 0, 0, 4, 0, 0, 0, 0, 0]));
      socket.on('error', () => undefined);
      socket.on('data', (chunk) => {
        rest = Buffer.concat([rest, chunk]);
        if (isFirst && rest.length >= 24) {
          rest = rest.subarray(24);
          isFirst = false;
        }
        while (!isFirst && rest.length >= 9 && rest.length >= 9 + rest.readUIntBE(0, 3)) {
          const end = 9 + rest.readUIntBE(0, 3);
          // With flags for neither padding nor priority.
          if (rest[3] === 1) blocks.push(Buffer.from(rest.subarray(rest[4]! & 0x20 ? 14 : 9, end)));
          rest = rest.subarray(end);
        }
      });
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    const session = http2.connect(`http://127.0.0.1:${(server.address() as net.AddressInfo).port}`);
    session.on('error', () => undefined);
    const text = fc.string({ unit: fc.integer({ min: 0x21, max: 0x7e }).map((code) => String.fromCharCode(code)), minLength: 1, maxLength: 200 });
    const name = fc.oneof(fc.constantFrom('user-agent', 'accept', 'grpc-timeout', 'x-request-id', 'content-type'), fc.stringMatching(/^x-[a-z0-9_.-]{1,40}$/));
    const samples = fc.sample(fc.dictionary(name, fc.oneof(text, fc.constantFrom('a', 'trailers', 'application/grpc'))), 300);
    const sent: Pairs[] = [];
    for (const sample of samples) {
      const headers = { ':method': 'POST', ':scheme': 'http', ':path': '/x', ':authority': 'a', ...sample };
      sent.push(Object.entries(headers));
      session.request(headers).on('error', () => undefined);
      // A session opens no more than a hundred streams that nobody answers.
      if (sent.length % 50 === 0) await expect.poll(() => blocks.length, { timeout: 10_000 }).toBe(sent.length);
    }
    session.destroy();
    server.close();
    const decoder = new HpackDecoder();
    for (const [i, block] of blocks.entries()) expect(decode(decoder, block).sort(), `block ${i}`).toEqual(sent[i]!.sort());
  });
});
