-- Sends the requests of a folder in turn: wrk … -s wrk-requests.lua URL -- FOLDER THINK_MS FIRST_NUMBER
-- FOLDER/index has a line for each: FILE BYTES_BEFORE_THE_NUMBER. A file is a whole HTTP request; the eight digits at that place are
-- replaced by a number that no other request had. THINK_MS: mean pause of a connection between two requests, drawn from an exponential
-- distribution; 0: none.
local before, after = {}, {}
local turn, number = 0, 0

function init(args)
  local folder, thinkMs = args[1], tonumber(args[2])
  number = tonumber(args[3])
  for line in io.lines(folder .. "/index") do
    local name, at = line:match("^(%S+) (%d+)$")
    local file = assert(io.open(folder .. "/" .. name, "rb"))
    local text = file:read("*a")
    file:close()
    before[#before + 1] = text:sub(1, at)
    after[#after + 1] = text:sub(at + 9)
  end
  if thinkMs > 0 then
    math.randomseed(number)
    function delay()
      return math.floor(-math.log(1 - math.random()) * thinkMs + 0.5)
    end
  end
end

function request()
  turn = turn % #before + 1
  number = (number + 1) % 100000000
  return before[turn] .. string.format("%08d", number) .. after[turn]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"seconds":%.6f,"failures":%d,"p50Us":%.0f,"p99Us":%.0f}\n',
    summary.requests, summary.duration / 1e6,
    errors.status + errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
