print(_VERSION, table.concat(arg, " "))
local words = {}
for line in io.lines() do for w in line:gmatch("%a+") do words[#words + 1] = w:lower() end end
table.sort(words); print(table.concat(words, " "))
local co = coroutine.wrap(function() for i = 1, 5 do coroutine.yield(i * i) end end)
print(co(), co(), co())
print(string.format("%5.2f %x %q", math.pi, 255, "a\nb"), #string.rep("x", 100000))
local f = assert(io.open("/tmp/script-lua.txt", "w")); for i = 1, 100 do f:write(i, "\n") end f:close()
local n = 0 for l in io.lines("/tmp/script-lua.txt") do n = n + tonumber(l) end print(n) os.remove("/tmp/script-lua.txt")
print(pcall(error, { code = 3 }), select(2, pcall(function() error("boom") end)))
local t = setmetatable({}, { __index = function(_, k) return k .. "!" end }) print(t.hello)
local garbage = 0 for i = 1, 200000 do local x = { i } garbage = garbage + #x end collectgarbage() print(garbage)
print(os.getenv("GREETING"), os.time() > 1600000000)
os.exit(8)
